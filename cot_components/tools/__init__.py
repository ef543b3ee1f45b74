"""What one command each calls: previews, speed, memory."""
