"""Great Expectations suites as code: `row` rules hold single rows back, `batch` rules stop the pipeline. [yours]"""
