"""The U-Nets that denoise."""
