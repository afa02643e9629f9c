module ryuk.test

go 1.26.0
