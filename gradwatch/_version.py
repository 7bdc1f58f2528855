"""The version, told once: packaging, the package and saved reports read it here."""

__version__ = "0.1.0"
