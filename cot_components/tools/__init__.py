"""What one command each calls: previews, audits, scores, speed, memory."""
