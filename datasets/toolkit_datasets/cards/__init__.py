"""Cards: one TOML file for each dataset."""
