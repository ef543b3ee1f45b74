"""Chain-of-thought fine-tuning as three questions asked of every token: present? counted? toward what?"""
