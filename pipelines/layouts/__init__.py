"""What the files of a data set mean: which are images, of which split and which class."""
