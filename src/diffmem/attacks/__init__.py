"""What a model gives away: membership inference, exposure of canaries, FLIPD."""
