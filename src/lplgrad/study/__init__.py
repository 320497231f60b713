"""The configuration of a study: its settings and their checks, its layout on disk, its JSON schema."""
