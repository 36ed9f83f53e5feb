# Writes HEADER, which says what commit of SOURCE_DIR is being built; leaves it alone where it says so already.
cmake_policy(VERSION 3.25)
set(commit unknown)
execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --show-prefix
  OUTPUT_VARIABLE within OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
if(status EQUAL 0 AND within STREQUAL "")  # not a copy within another repository
  execute_process(COMMAND git --no-optional-locks -C ${SOURCE_DIR} describe --always --dirty --abbrev=7
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "inline constexpr const char* built_commit = \"@commit@\";\n" @ONLY)
