"""The version of the package, in the one place that the build, the command line and saved models read it from."""

__version__ = "0.1.0"
