//! F6: the director: from a request to a picked endpoint, and what is observed of its response.
