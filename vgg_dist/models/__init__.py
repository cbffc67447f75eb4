"""The networks: their sizes (`specs`, without torch), how they are built and initialised (`build`), and their layers."""
