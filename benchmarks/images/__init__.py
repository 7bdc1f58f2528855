"""Image models written in plain torch, in the style of torchvision and timm."""
