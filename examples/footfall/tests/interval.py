"""The days that the tests live through: features from START until END, trained and served as of AS_OF. [yours]"""

START, END, AS_OF = "2024-02-15", "2024-06-08", "2024-06-01"
