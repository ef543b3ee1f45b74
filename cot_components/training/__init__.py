"""The torchtune layer of training: the recipe decorator, the loop, and what the loop is given."""
