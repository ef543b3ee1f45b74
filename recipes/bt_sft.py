"""Blurred-thoughts supervised fine-tuning (BT-SFT).

    tune run bt_sft --config bt_sft/quickstart
    tune run bt_sft --config bt_sft/llama3_2_1B dataset.source=DIR model.path=DIR

Part of every thought stays in context but is not trained on; tags and answer always are. The method is one transform
(`cot_components.transforms.Blur`) in `dataset.transforms`; the recipe is `cot_sft`.
"""

from cot_sft import main

if __name__ == "__main__":
    main()
