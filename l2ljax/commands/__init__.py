"""The commands: flags in, one call of the library, a table out."""
