"""ocipy: an OCI low-level container runtime that compiles config.json into a plan of kernel steps."""

__version__ = "0.1.0"
SPEC_VERSION = "1.3.0"
