"""LumbarCLIP (arXiv:2509.20813): towers, soft CLIP loss and text augmentation."""
