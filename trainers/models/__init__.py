"""Builds networks from an architecture and an encoder.

build.py      configuration -> network for images of any size
upsample.py   quicker upsampling in U-Net decoders on the CPU
depthwise.py  quicker depthwise convolutions on the CPU
"""
