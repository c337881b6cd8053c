"""What a model's attention does: every call seen and answered, and numbers read off its rows; torch only."""
