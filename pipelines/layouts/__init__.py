"""The layouts in which data sets come: which files are images, and of which split and class each is."""
