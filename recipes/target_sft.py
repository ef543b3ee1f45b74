"""Target fine-tuning: the loss is chosen by the distribution it pulls to (SFT, DFT, ASFT, distillation, Target-SFT).

    tune run target_sft --config target_sft/quickstart
    tune run target_sft --config target_sft/quickstart loss=cot_components.losses.dft ~loss.eta reference=null

The method is the `loss` node, one of the presets of `cot_components.losses`. A preset with a second distribution takes
it from `reference`: a frozen model, the model itself with its LoRA adapters off, or a file; the recipe is `cot_sft`.
"""

from cot_sft import main

if __name__ == "__main__":
    main()
