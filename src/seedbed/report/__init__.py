"""Pages, plots and video files made from plain data; this room knows no model."""
