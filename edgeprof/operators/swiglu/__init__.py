"""SwiGLU feed-forward."""
