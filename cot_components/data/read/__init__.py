"""Read files, folders and hub data sets of any layout into traces and messages."""
