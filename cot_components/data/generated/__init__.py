"""Data made on demand: word problems, agent dialogues, multiplication."""
