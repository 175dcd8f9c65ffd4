"""The harness: dataset -> split -> adapt -> embed -> evaluate -> result. Knows no particular model."""
