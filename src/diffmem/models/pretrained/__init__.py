"""Models made elsewhere: files that nobody vouches for, read without executing anything in them."""
