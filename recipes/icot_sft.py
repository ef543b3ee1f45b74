"""Stepwise internalisation (ICoT-SI): the thought is removed token by token until the model answers directly.

    tune run icot_sft --config icot_sft/quickstart
    tune run icot_sft --config icot_sft/quickstart curriculum.start=all output_dir=runs/no_cot   # never a step

The method is the `curriculum` node, which removes more and more of every thought and rebuilds the optimizer at every
stage; the recipe is `cot_sft`.
"""

from cot_components.training.recipe import require
from cot_sft import main as cot_sft

main = require(cot_sft, "curriculum")

if __name__ == "__main__":
    main()
