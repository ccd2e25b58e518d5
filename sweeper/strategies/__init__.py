"""Who decides what is measured next. Each strategy is a generator (see `base`)."""
