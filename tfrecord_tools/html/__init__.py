"""The statistics of a build and the page that shows them."""
