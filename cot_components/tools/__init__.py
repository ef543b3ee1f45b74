"""The work behind one command each: previews, audits, scores, speed, memory."""
