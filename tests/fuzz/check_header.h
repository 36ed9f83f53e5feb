#pragma once

#include <string_view>

// Parses a file's bytes and aborts unless the parser either throws flame::Error or gives a header that is true: each
// tensor lies in the file, has the bytes that its shape asks for, and shares none with another. Says which it was.
bool is_valid_header(std::string_view file);
