"""The torchtune layer of training: the recipe decorator, the loop, and everything the loop needs."""
