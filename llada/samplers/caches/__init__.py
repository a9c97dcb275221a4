"""What of the model is kept between the steps of decoding."""
