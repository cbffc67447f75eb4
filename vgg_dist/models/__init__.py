"""The networks: their specifications (`specs`, without torch), construction and initialisation (`build`), and layers."""
