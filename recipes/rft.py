"""Reasoning-highlighted fine-tuning (RFT): reasoning tokens count more than boilerplate.

    tune run shad --config shad/quickstart
    tune run rft --config rft/quickstart
    tune run cot_sft --config rft/quickstart loss.weight_rule=null    # plain fine-tuning on the same steps

Two nodes make the method: a transform that classifies tokens (`dataset.transforms.highlight`, from the scores of the
recipe `shad`) and a weight rule of the loss (`loss.weight_rule`); the recipe is `cot_sft`.
"""

from cot_components.training.recipe import require
from cot_sft import main as cot_sft

main = require(cot_sft, "loss.weight_rule")

if __name__ == "__main__":
    main()
