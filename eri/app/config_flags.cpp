#include "eri/app/config_flags.h"

namespace eri {

void ConfigFlags::add_to(CLI::App& command, const ConfigKey& key) {
  const std::string flags = std::string("--") + key.name + (find_key("model") == &key ? ",--model" : "");
  auto* option = command.add_option_function<std::string>(
      flags, [this, &key](const std::string& value) { given_.emplace_back(&key, value); }, key.help);
  option->group(key.group)->type_name(type_name(key));
  option->default_str(value_of(TrainConfig(), key))->run_callback_for_default(false);
  const bool is_switch = std::holds_alternative<bool TrainConfig::*>(key.member) ||
                         std::holds_alternative<std::optional<bool> TrainConfig::*>(key.member);
  if (is_switch) option->expected(0, 1)->default_str("true");
}

void ConfigFlags::apply(TrainConfig& config) const {
  for (const auto& [key, value] : given_) set_value(config, *key, value);
}

}  // namespace eri
