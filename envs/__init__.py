"""Where experience comes from: environments and data sets."""
