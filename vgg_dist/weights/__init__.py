"""Trained nets and their files.

`load` is the way in: a net from a run, a checkpoint, an exported file or weights of others. `net` says what a trained net
is; `checkpoint`, `files` and `foreign` read the kinds of files.
"""
