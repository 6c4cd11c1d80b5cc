r"""Images :math:`x_0` in :math:`[-1, 1]`: names, folders, arrays and Hugging Face datasets.

One function, :func:`load_data`, reads all of these and returns :class:`ImageData`: a tensor of
shape :math:`(N, C, H, W)`, labels where there are any, and a record of how the tensor was made,
with the SHA-256 of its content. :class:`BatchStream` draws training batches from it.
"""
