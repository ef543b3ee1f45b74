"""Files, folders and hub data sets of any layout to traces and messages."""
