"""The only room that knows diffusers."""
