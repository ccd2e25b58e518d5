"""Where trials run. Each launcher starts the same process on the same folder."""
