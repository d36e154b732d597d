"""Shows the live loop in a browser: `ferjax live --serve [HOST:]PORT`."""
