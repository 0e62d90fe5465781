"""GeGLU feed-forward."""
