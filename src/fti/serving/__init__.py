"""The inference pipeline: a request in; the champion's prediction, with the features it used, out."""
