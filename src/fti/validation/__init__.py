"""Gates on data: rules, profiles and what becomes of the rows that break them."""
