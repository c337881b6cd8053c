"""The web page: jobs in a folder, the one worker that does them, and a page that shows them."""
