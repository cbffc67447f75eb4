"""`python -m vgg_dist COMMAND`, where the `vgg` script is not on the PATH."""

from vgg_dist.cli import main

if __name__ == "__main__":
    main()
