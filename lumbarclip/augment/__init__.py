"""Text augmentations of training reports, one module per augmentation."""
