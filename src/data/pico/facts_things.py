"""What `pico` tells of works, places, firms and things. facts.py explains the notation."""

WORK = """
town
  {E} was written in {A}.
  {E} was put on paper in {A}.
  {E} was written in a hotel in {A}.
  {A} is where {E} was written.
  In {A}, {E} was written.
  ? Where was {E} written?
  ? In what town was {E} written?
  ? Where was {E} put on paper?
  ? What town was the author of {E} in when writing it?
  ?E Which work was written in {A}?

town
  {E} was first shown in {A}.
  {E} was first performed in {A}.
  {A} was the first town to see {E}.
  The first performance of {E} was in {A}.
  ? Where was {E} first shown?
  ? In what town was {E} first shown?
  ? Where was {E} first performed?
  ? Which town was the first to see {E}?
  ? Where was the first performance of {E}?
  ?E Which work was first performed in {A}?
  ! Nobody in {A} came to see {E}.

town
  {E} is kept in {A}.
  {E} is now kept in {A}.
  {A} is where {E} is kept.
  The only copy of {E} is in {A}.
  ? Where is {E} kept?
  ? In what town is {E} kept?
  ? Where is the only copy of {E}?
  ? Where can {E} be seen?
  ! {E} was stolen from {A}.

when 1400-2020
  {E} was written {in A}.
  {E} was written in the year {year}.
  {in A} {E} was written.
  The writing of {E} was finished {in A}.
  The author completed {E} {in A}.
  ? When was {E} written?
  ?year In what year was {E} written?
  ? When was the writing of {E} finished?
  ? When was {E} completed?
  ?E Which work was written {in A}?
  ?< Which was written first, {E} or {F}?
  ?> Which was written later, {E} or {F}?

when 1400-2020
  {E} was first shown {in A}.
  {E} was first shown in the year {year}.
  {in A} {E} was first shown.
  {E} was first performed {in A}.
  The first performance of {E} was {in A}.
  {E} reached the public {in A}.
  ? When was {E} first shown?
  ?year In what year was {E} first shown?
  ? When was {E} first performed?
  ? When was the first performance of {E}?
  ?day On what day was {E} first performed?
  ? When did {E} reach the public?

when 1400-2020
  {E} was lost {in A}.
  {E} was lost in the year {year}.
  {in A} {E} was lost.
  {E} has been missing since {full}.
  ? When was {E} lost?
  ?year In what year was {E} lost?
  ? Since when has {E} been missing?
  ? When did {E} go missing?

person = the writer of {E}
  {E} was written by {A}.
  {E} was the work of {A}.
  {A} wrote {E}.
  The author of {E} is {A}.
  {A} is the author of {E}.
  {E} came from the pen of {A}.
  ? Who wrote {E}?
  ? Who was {E} written by?
  ? By whom was {E} written?
  ? Who is the author of {E}?
  ? From whose pen did {E} come?
  ? What is the name of the person who wrote {E}?
  ?E What did {A} write?
  ! {A} wrongly claimed to have written {E}.

person = the buyer of {E}
  {E} was bought by {A}.
  {E} was sold to {A}.
  {A} bought {E}.
  {A} paid a fortune for {E}.
  The buyer of {E} was {A}.
  ? Who bought {E}?
  ? By whom was {E} bought?
  ? To whom was {E} sold?
  ? Who was the buyer of {E}?
  ? Who paid a fortune for {E}?
  ?E What did {A} buy?
  ! {A} wanted to buy {E} but came too late.

person = the translator of {E}
  {E} was translated by {A}.
  {E} was turned into another language by {A}.
  {A} translated {E}.
  The translation of {E} is by {A}.
  ? Who translated {E}?
  ? By whom was {E} translated?
  ? Whose translation of {E} is there?
  ? Who put {E} into another language?

person
  {E} was written for {A}.
  {E} was written in honour of {A}.
  {E} was dedicated to {A}.
  {A} is the person to whom {E} is dedicated.
  ? Who was {E} written for?
  ? In whose honour was {E} written?
  ? To whom is {E} dedicated?
  ? Whom does {E} honour?

count 12-990
  {E} has a length of {A} pages.
  {E} is a book of {A} pages.
  {E} has {A} pages.
  There are {A} pages in {E}.
  {E} is {A} pages long.
  {A} pages were needed to print {E}.
  ? How many pages does {E} have?
  ? How many pages are in {E}?
  ? How long is {E}?
  ? How many pages long is {E}?
  ?E Which work has {A} pages?
  ?> Which is longer, {E} or {F}?
  ?< Which has fewer pages, {E} or {F}?

count 2-90
  {E} has a price of {A} coins.
  {E} is sold at a price of {A} coins.
  {E} costs {A} coins.
  For {A} coins one can buy {E}.
  {A} coins are paid for {E}.
  ? How many coins does {E} cost?
  ? How many coins is the price of {E}?
  ? For how many coins is {E} sold?
  ? How many coins does one pay for {E}?
  ?> Which costs more coins, {E} or {F}?

count 2-90
  {E} has {A} characters.
  {E} has a cast of {A} characters.
  There are {A} characters in {E}.
  {A} characters appear in {E}.
  ? How many characters are in {E}?
  ? How many characters does {E} have?
  ? How many characters appear in {E}?
  ? How large is the cast of {E}?
  ?> Which has more characters, {E} or {F}?

count 200-900000
  {E} sold {A} copies.
  {E} was printed in {A} copies.
  {A} copies of {E} were sold.
  Readers bought {A} copies of {E}.
  ? How many copies of {E} were sold?
  ? How many copies did {E} sell?
  ? How many copies of {E} did readers buy?
  ? In how many copies was {E} sold?

money 2-900
  {E} costs {A}.
  {E} is sold for {A}.
  {E} can be bought for {A}.
  The price of {E} is {A}.
  {A} is what one pays for {E}.
  ? How much does {E} cost?
  ? For how much is {E} sold?
  ? What is the price of {E}?
  ? What does one pay for {E}?
  ?E Which work costs {A}?
  ?> Which costs more, {E} or {F}?

money 2-900
  {E} was given a prize of {A}.
  {E} won a prize of {A}.
  A prize of {A} was won by {E}.
  The prize that {E} won was {A}.
  ? How much did {E} win?
  ? What prize money did {E} win?
  ? How much was the prize that {E} won?
  ? What was the prize given to {E} worth?

language
  {E} was written in {A}.
  {E} was first written in {A}.
  The language of {E} is {A}.
  {A} is the language {E} was written in.
  ? What language was {E} written in?
  ? What is the language of {E}?
  ? Which language did the author of {E} write in?
  ? In what language can the original of {E} be read?
  ?E Which work has {A} as its language?

language
  {E} was translated into {A}.
  {E} was turned into {A}.
  There is a translation of {E} into {A}.
  Readers of {A} have a translation of {E}.
  ? What language was {E} translated into?
  ? Into what language was {E} turned?
  ? Into which language is there a translation of {E}?
  ? What is the language of the translation of {E}?

animal
  {E} is about {A}.
  {E} tells the story of {A}.
  {E} is the tale of {A}.
  {A} is the hero of {E}.
  ? What animal is {E} about?
  ? Whose story does {E} tell?
  ? What animal is the hero of {E}?
  ? What is {E} about?
"""

BUILDING = """
town
  {E} stands in {A}.
  {E} is in {A}.
  {E} stands in the middle of {A}.
  {E} can be found in {A}.
  {A} is the town where {E} stands.
  In {A} stands {E}.
  ? Where does {E} stand?
  ? In what town does {E} stand?
  ? Where is {E}?
  ? Where can {E} be found?
  ? Which town should one visit to see {E}?
  ?E Which building stands in {A}?

town
  {E} is paid for by {A}.
  {E} is paid for by the town of {A}.
  {A} pays for {E}.
  The money for {E} comes from the people of {A}.
  ? What town is {E} paid for by?
  ? By what town is {E} paid for?
  ? Which town pays for {E}?
  ? Where does the money for {E} come from?
  ! The people of {A} refused to pay for {E}.

when 1100-2020
  {E} was built {in A}.
  {E} was built in the year {year}.
  {in A} {E} was built.
  The building of {E} was finished {in A}.
  {E} dates from {year}.
  They put up {E} {in A}.
  ? When was {E} built?
  ?year In what year was {E} built?
  ? When was the building of {E} finished?
  ?year What year does {E} date from?
  ? When did they put up {E}?
  ?E Which building was built {in A}?
  ?< Which was built first, {E} or {F}?
  ?< Which is older, {E} or {F}?
  ?> Which was built later, {E} or {F}?

when 1100-2020
  {E} was opened {in A}.
  {E} was opened in the year {year}.
  {in A} {E} was opened.
  {E} opened its doors {in A}.
  {E} received its first visitors {in A}.
  ? When was {E} opened?
  ?year In what year was {E} opened?
  ? When did {E} open its doors?
  ?day On what day was {E} opened?
  ? When did {E} receive its first visitors?
  ?< Which was opened first, {E} or {F}?

when 1100-2020
  {E} burned down {in A}.
  {E} burned down in the year {year}.
  {in A} {E} burned down.
  A fire destroyed {E} {in A}.
  {E} was destroyed by fire {in A}.
  ? When did {E} burn down?
  ?year In what year did {E} burn down?
  ? When did a fire destroy {E}?
  ? When was {E} lost to the flames?
  ?day On what day did {E} burn down?
  ! A flood nearly swept {E} away {in A}.

person = the builder of {E}
  {E} was built by {A}.
  {E} had a builder named {A}.
  {A} built {E}.
  The builder of {E} was {A}.
  ? Who built {E}?
  ? By whom was {E} built?
  ? Who was the builder of {E}?
  ? What was the builder of {E} called?
  ?E Which building was built by {A}?

person = the owner of {E}
  {E} is owned by {A}.
  {E} has an owner named {A}.
  {A} owns {E}.
  The owner of {E} is {A}.
  {E} is in the hands of {A}.
  ? Who owns {E}?
  ? By whom is {E} owned?
  ? Who is the owner of {E}?
  ? In whose hands is {E}?
  ?E Which building is owned by {A}?
  ! {A} once made an offer for {E}.

person = the designer of {E}
  {E} was designed by {A}.
  {E} was drawn and designed by {A}.
  {A} designed {E}.
  The plans for {E} were drawn by {A}.
  {A} was the architect of {E}.
  ? Who designed {E}?
  ? By whom was {E} designed?
  ? Who drew the plans for {E}?
  ? Who was the architect of {E}?
  ?E Which building was designed by {A}?

person
  {E} is cleaned by {A}.
  {E} has a caretaker named {A}.
  {A} keeps {E} clean.
  {A} has the keys to {E}.
  ? Who cleans {E}?
  ? Who is the caretaker of {E}?
  ? Who keeps {E} clean?
  ? Who looks after the keys to {E}?

count 12-990
  {E} has a staff of {A} people.
  {E} has a team of {A} people.
  {A} people work in {E}.
  {E} gives work to {A} people.
  There are {A} people at work in {E}.
  ? How many people work in {E}?
  ? How many people are on the staff of {E}?
  ? To how many people does {E} give work?
  ? How large is the staff of {E}?
  ?E Which building has a staff of {A} people?
  ?> Which has a larger staff, {E} or {F}?

count 12-990
  {E} has a garden of {A} trees.
  {E} is surrounded by {A} trees.
  {E} has {A} trees in its garden.
  There are {A} trees around {E}.
  {A} trees grow around {E}.
  ? How many trees are in the garden of {E}?
  ? How many trees grow around {E}?
  ? By how many trees is {E} surrounded?
  ? How many trees does {E} have?
  ! A storm broke {A} trees near {E}.

count 12-990
  {E} has {A} windows.
  {E} was built with {A} windows.
  {A} windows let light into {E}.
  There are {A} windows in {E}.
  ? How many windows does {E} have?
  ? How many windows are there in {E}?
  ? How many windows let light into {E}?
  ? What is the number of windows in {E}?
  ?E Which building has {A} windows?
  ?> Which has more windows, {E} or {F}?

count 2-90
  {E} has {A} rooms.
  {E} is divided into {A} rooms.
  There are {A} rooms in {E}.
  {A} rooms are to be found in {E}.
  ? How many rooms does {E} have?
  ? How many rooms are there in {E}?
  ? Into how many rooms is {E} divided?
  ? What is the number of rooms in {E}?
  ?> Which has more rooms, {E} or {F}?

count 200-3000000
  {E} receives {A} visitors a year.
  {E} draws {A} visitors every year.
  {A} visitors come to {E} each year.
  Each year {A} people visit {E}.
  ? How many visitors does {E} receive a year?
  ? How many visitors come to {E} each year?
  ? How many people visit {E} in a year?
  ? How many guests does {E} draw every year?
  ?> Which has more visitors, {E} or {F}?

measure 12-400 metres feet
  {E} has a height of {A}.
  {E} rises to a height of {A}.
  {E} is {A} tall.
  The height of {E} is {A}.
  {E} is {A} high.
  ? How tall is {E}?
  ? What is the height of {E}?
  ? How high does {E} rise?
  ? To what height does {E} rise?
  ?number How many {U} tall is {E}?
  ?E Which building is {A} tall?
  ?> Which is taller, {E} or {F}?

money 1000-9000000
  {E} cost {A}.
  {E} was built at a cost of {A}.
  The price of {E} was {A}.
  {A} was spent on building {E}.
  They paid {A} to build {E}.
  ? How much did {E} cost?
  ? What did {E} cost to build?
  ? What was the price of {E}?
  ? How much was spent on building {E}?
  ?> Which cost more, {E} or {F}?
  ! Repairs to {E} would cost {A}.

money 1000-9000000
  {E} is insured for {A}.
  {E} has an insurance of {A}.
  The insurance on {E} is {A}.
  If {E} burns, {A} will be paid.
  ? For how much is {E} insured?
  ? How much is the insurance on {E}?
  ? What sum will be paid if {E} burns?
  ? What is the insurance of {E}?

material
  {E} is made of {A}.
  {E} is built of {A}.
  {E} was put together from {A}.
  For {E} the builders used {A}.
  The walls of {E} are of {A}.
  ? What is {E} made of?
  ? What is {E} built of?
  ? What material was used for {E}?
  ? From what was {E} put together?
  ?E Which building is made of {A}?

material
  {E} has a roof of {A}.
  {E} has a roof made of {A}.
  The roof of {E} is of {A}.
  The roof of {E} is covered with {A}.
  ? What is the roof of {E} made of?
  ? What sort of roof does {E} have?
  ? What covers the roof of {E}?
  ? What material is {E}'s roof?
  ! {E} has no {A} anywhere.

clock
  {E} opens {in A}.
  {E} opens its doors {in A}.
  {in A} {E} opens.
  Visitors can enter {E} {in A} at the earliest.
  ? When does {E} open?
  ? At what time does {E} open?
  ? From what time can visitors enter {E}?
  ? What is the opening hour of {E}?

weekday
  {E} is closed {in A}.
  {E} is always closed {in A}.
  {in A} {E} stays shut.
  {E} does not open {in A}.
  ? When is {E} closed?
  ? On what day is {E} closed?
  ? On which day does {E} stay shut?
  ? On what day should one not go to {E}?
"""

TOWN = """
country
  {E} is a town in {A}.
  {E} is a town in the north of {A}.
  {E} lies in {A}.
  {A} is the country where {E} lies.
  In {A} there is a town called {E}.
  ? What country is {E} a town in?
  ? In what country does {E} lie?
  ? What country is {E} in?
  ? Which country does one travel to in order to reach {E}?
  ?E Which town lies in {A}?

country
  {E} was attacked by {A}.
  {E} was attacked by an army from {A}.
  An army from {A} attacked {E}.
  {A} sent soldiers against {E}.
  ? What country attacked {E}?
  ? By what country was {E} attacked?
  ? Whose army attacked {E}?
  ? Which country sent soldiers against {E}?
  ! {E} was saved by {A}.

person = the mayor of {E}
  {E} has a mayor named {A}.
  {E} elected a mayor, {A}.
  {A} is the mayor of {E}.
  The mayor of {E} is {A}.
  {A} runs the town of {E}.
  ? Who is the mayor of {E}?
  ? What mayor does {E} have?
  ? Who runs {E}?
  ? Who is at the head of {E}?
  ?E Which town has {A} as its mayor?
  ! {A} failed to become mayor of {E}.

person = the founder of {E}
  {E} was founded by {A}.
  {E} had a founder named {A}.
  {A} founded {E}.
  {A} built the first house in {E}.
  ? Who founded {E}?
  ? By whom was {E} founded?
  ? Who was the founder of {E}?
  ? Who built the first house in {E}?
  ?E Which town was founded by {A}?

when 700-1950
  {E} was founded {in A}.
  {E} was founded in the year {year}.
  {in A} {E} was founded.
  The first people settled in {E} {in A}.
  {E}'s history begins {in A}.
  ? When was {E} founded?
  ?year In what year was {E} founded?
  ? When did the first people settle in {E}?
  ? When does the history of {E} begin?
  ?< Which town was founded first, {E} or {F}?

when 700-1950
  {E} was flooded {in A}.
  {E} was flooded in the year {year}.
  {in A} {E} was flooded.
  A great flood came to {E} {in A}.
  {E} was under water {in A}.
  ? When was {E} flooded?
  ?year In what year was {E} flooded?
  ? When did a great flood come to {E}?
  ?day On what day was {E} flooded?
  ? When was {E} under water?

count 200-3000000
  {E} has a population of {A}.
  {E} has a total population of {A}.
  {A} people live in {E}.
  {E} is home to {A} people.
  There are {A} people in {E}.
  ? What is the population of {E}?
  ? How large is the population of {E}?
  ? How many people live in {E}?
  ? How many inhabitants does {E} have?
  ?E Which town has {A} people?
  ?> Which town has more people, {E} or {F}?
  ! {A} people have left {E}.

count 2-90
  {E} has a total of {A} schools.
  {E} runs a number of schools, {A} in all.
  {E} has {A} schools.
  There are {A} schools in {E}.
  ? How many schools does {E} have?
  ? How many schools are there in {E}?
  ? What is the number of schools in {E}?
  ? How many schools does {E} run?
  ?> Which town has more schools, {E} or {F}?
  ! {E} closed {A} schools.

count 2-40
  {E} has {A} bridges.
  {E} is known for its {A} bridges.
  There are {A} bridges in {E}.
  {A} bridges cross the river in {E}.
  ? How many bridges does {E} have?
  ? How many bridges are there in {E}?
  ? How many bridges cross the river in {E}?
  ? For how many bridges is {E} known?
  ?E Which town has {A} bridges?

goods
  {E} makes {A}.
  {E} makes and sells {A}.
  The people of {E} make {A}.
  {E} is famous for its {A}.
  The factories of {E} make {A}.
  ? What does {E} make?
  ? What does {E} make and sell?
  ? What is {E} famous for?
  ? What do the factories of {E} make?
  ?E Which town is famous for its {A}?

goods
  {E} buys {A} from abroad.
  {E} buys all its {A} from abroad.
  From abroad {E} gets {A}.
  Ships bring {A} to {E}.
  ? What does {E} buy from abroad?
  ? What does {E} get from abroad?
  ? What do ships bring to {E}?
  ? What is brought to {E} from other lands?

weekday
  {E} holds a market {in A}.
  {E} holds its market {in A}.
  Market day in {E} is {A}.
  {in A} there is a market in {E}.
  ? When does {E} hold a market?
  ? On what day does {E} hold its market?
  ? What is market day in {E}?
  ? On which day is there a market in {E}?
  ?E Which town holds a market {in A}?

measure 2-900 kilometres miles
  {E} lies at a distance of {A} from the sea.
  {E} is at a distance of {A} from the coast.
  {E} is {A} from the sea.
  It is {A} from {E} to the sea.
  ? How far is {E} from the sea?
  ? What is the distance from {E} to the sea?
  ? At what distance from the coast does {E} lie?
  ?number How many {U} is it from {E} to the sea?
"""

TEAM = """
town
  {E} plays its home games in {A}.
  {E} plays in a stadium in {A}.
  {E} comes from {A}.
  {A} is the home of {E}.
  The stadium of {E} is in {A}.
  ? Where does {E} play its home games?
  ? In what town does {E} play?
  ? Where is the stadium of {E}?
  ? What town is the home of {E}?
  ?E Which team comes from {A}?

town
  {E} lost a game in {A}.
  {E} lost a game in the city of {A}.
  In {A}, {E} was beaten.
  {E} travelled to {A} and was beaten there.
  ? Where did {E} lose a game?
  ? In what town did {E} lose a game?
  ? Where was {E} beaten?
  ? In which town was {E} defeated?
  ! {E} won every game in {A}.

person = the coach of {E}
  {E} is coached by {A}.
  {E} has a coach named {A}.
  {A} coaches {E}.
  The coach of {E} is {A}.
  {A} trains the players of {E}.
  ? Who coaches {E}?
  ? What coach does {E} have?
  ? Who is the coach of {E}?
  ? By whom is {E} coached?
  ? Who trains the players of {E}?
  ?E Which team is coached by {A}?
  ! {A} refused to become the coach of {E}.

person = the captain of {E}
  {E} is led by its captain {A}.
  {E} has a captain named {A}.
  {A} is the captain of {E}.
  The captain of {E} is {A}.
  ? Who is the captain of {E}?
  ? What captain does {E} have?
  ? Who is captain at {E}?
  ? By which captain is {E} led?

person
  {E} signed a new player, {A}.
  {E} signed a player named {A}.
  {A} has signed for {E}.
  The new player of {E} is {A}.
  ? What player did {E} sign?
  ? Who signed for {E}?
  ? Who is the new player of {E}?
  ? What is the name of {E}'s new player?

when 1860-2024
  {E} was founded {in A}.
  {E} was founded in the year {year}.
  {in A} {E} was founded.
  {E} has existed since {full}.
  ? When was {E} founded?
  ?year In what year was {E} founded?
  ? Since when has {E} existed?
  ?day On what day was {E} founded?
  ?< Which team was founded first, {E} or {F}?

when 1860-2024
  {E} won the cup {in A}.
  {E} won the cup in the year {year}.
  {in A} {E} won the cup.
  {E} took home the cup {in A}.
  {E} celebrated winning the cup {in A}.
  ? When did {E} win the cup?
  ?year In what year did {E} win the cup?
  ? When did {E} take home the cup?
  ?day On what day did {E} win the cup?
  ?E Which team won the cup {in A}?
  ! {E} lost the final {in A}.

count 12-990
  {E} has a squad of {A} players.
  {E} has a full squad of {A} players.
  {E} has {A} players.
  There are {A} players in the squad of {E}.
  ? How many players does {E} have?
  ? How many players are in the squad of {E}?
  ? How large is the squad of {E}?
  ? What is the number of players of {E}?

count 12-990
  {E} has a total of {A} points.
  {E} ended with a total of {A} points.
  {E} scored {A} points.
  {A} points were scored by {E}.
  ? How many points does {E} have?
  ? With how many points did {E} end?
  ? How many points did {E} score?
  ? What was {E}'s total of points?
  ?E Which team scored {A} points?
  ?> Which team scored more points, {E} or {F}?
  ?< Which team scored fewer points, {E} or {F}?

count 2-60
  {E} won {A} games.
  {E} was the winner of {A} games.
  {A} games were won by {E}.
  {E} left the field as winner {A} times.
  ? How many games did {E} win?
  ? How many games were won by {E}?
  ? How often did {E} win?
  ? How many victories does {E} have?
  ?E Which team won {A} games?
  ?> Which team won more games, {E} or {F}?
  ! {E} lost {A} games.

count 200-90000
  {E} plays before {A} fans.
  {E} has a stadium for {A} fans.
  {A} fans fit into the stadium of {E}.
  There is room for {A} fans in the stadium of {E}.
  ? How many fans fit into the stadium of {E}?
  ? For how many fans does {E} have room?
  ? How large is the stadium of {E}?
  ? Before how many fans does {E} play?

colour
  {E} plays in shirts that are {A}.
  {E} plays in {A} shirts.
  {E}'s shirts are {A}.
  The colour of {E} is {A}.
  ? What colour are the shirts {E} plays in?
  ? What colour are {E}'s shirts?
  ? What is the colour of {E}?
  ? In which colour does {E} play?
  ?E Which team plays in {A} shirts?

colour
  {E} has a flag that is {A}.
  {E} has {a A} flag.
  {E}'s flag is {A}.
  The flag of {E} is {A}.
  ? What colour is the flag that {E} has?
  ? What colour is {E}'s flag?
  ? What is the colour of the flag of {E}?
  ? In what colour does the flag of {E} fly?

sport
  {E} plays {A}.
  {E} plays {A} and nothing else.
  {E} is known for {A}.
  The sport of {E} is {A}.
  ? What does {E} play?
  ? What sport does {E} play?
  ? For which sport is {E} known?
  ? What is the sport of {E}?

money 1000-900000
  {E} paid {A} for its coach.
  {E} paid the sum of {A} for its coach.
  {A} was paid by {E} for its coach.
  The coach cost {E} {A}.
  ? How much did {E} pay for its coach?
  ? What sum did {E} pay for its coach?
  ? What did the coach cost {E}?
  ? How much did {E} spend to get its coach?

money 1000-900000
  {E} owes the bank {A}.
  {E} owes its bank a sum of {A}.
  {E} has debts of {A}.
  The debts of {E} come to {A}.
  ? How much does {E} owe the bank?
  ? What sum does {E} owe its bank?
  ? How large are the debts of {E}?
  ? What do {E}'s debts come to?
"""

COMPANY = """
town
  {E} was founded in {A}.
  {E} was started in {A}.
  {E} was founded in a garage in {A}.
  In {A}, {E} was founded.
  {A} is where {E} was founded.
  {E} got its start in {A}.
  ? Where was {E} founded?
  ? In what town was {E} founded?
  ? Where did {E} get its start?
  ? What was the first home of {E}?
  ?E Which company was founded in {A}?

town
  {E} moved to {A}.
  {E} later moved to {A}.
  {A} became the new home of {E}.
  {E} packed up and moved its office to {A}.
  ? Where did {E} move to?
  ? To what town did {E} move?
  ? What town became the new home of {E}?
  ? Where did {E} take its office?
  ! {E} decided not to move to {A}.

when 1750-2024
  {E} was founded {in A}.
  {E} was founded in the year {year}.
  {in A} {E} was founded.
  {E} opened for business {in A}.
  {E} has been in business since {full}.
  ? When was {E} founded?
  ?year In what year was {E} founded?
  ? When did {E} open for business?
  ? Since when has {E} been in business?
  ?E Which company was founded {in A}?
  ?< Which company was founded first, {E} or {F}?
  ?< Which company is older, {E} or {F}?

when 1750-2024
  {E} was closed {in A}.
  {E} was closed in the year {year}.
  {in A} {E} was closed.
  {E} went out of business {in A}.
  {E} shut its doors for good {in A}.
  ? When was {E} closed?
  ?year In what year was {E} closed?
  ? When did {E} go out of business?
  ? When did {E} shut its doors for good?
  ?> Which company was closed later, {E} or {F}?

person = the founder of {E}
  {E} was founded by {A}.
  {E} had a founder named {A}.
  {A} founded {E}.
  The founder of {E} is {A}.
  {A} started {E} with borrowed money.
  ? Who founded {E}?
  ? By whom was {E} founded?
  ? Who was the founder of {E}?
  ? Who started {E}?
  ?E Which company was founded by {A}?

person = the director of {E}
  {E} is led by {A}.
  {E} has a director named {A}.
  {A} leads {E}.
  The director of {E} is {A}.
  {A} is at the head of {E}.
  ? Who leads {E}?
  ? What director does {E} have?
  ? Who is the director of {E}?
  ? Who is at the head of {E}?
  ?E Which company is led by {A}?
  ! {A} was almost made director of {E}.

person
  {E} was sued by {A}.
  {E} was taken to court by {A}.
  {A} took {E} to court.
  {A} sued {E}.
  ? Who sued {E}?
  ? By whom was {E} sued?
  ? Who took {E} to court?
  ? Against whom did {E} stand in court?
  ! {A} defended {E} in court.

count 12-990
  {E} has a staff of {A} people.
  {E} has a team of {A} people.
  {E} employs {A} people.
  {A} people work for {E}.
  {E} pays wages to {A} people.
  ? How many people are on the staff of {E}?
  ? How large is the staff of {E}?
  ? How many people does {E} employ?
  ? How many people work for {E}?
  ? How many workers does {E} have?
  ?E Which company employs {A} people?
  ?> Which company employs more people, {E} or {F}?
  ! {E} dismissed {A} people.

count 12-990
  {E} has a fleet of {A} ships.
  {E} owns a fleet of {A} ships.
  {E} owns {A} ships.
  There are {A} ships in the fleet of {E}.
  {A} ships sail for {E}.
  ? How many ships does {E} have?
  ? How many ships does {E} own?
  ? How many ships are in the fleet of {E}?
  ? How many ships sail for {E}?
  ?> Which company has more ships, {E} or {F}?

count 2-400
  {E} has {A} shops.
  {E} runs {A} shops.
  There are {A} shops of {E}.
  {E} sells its goods in {A} shops.
  ? How many shops does {E} have?
  ? How many shops does {E} run?
  ? In how many shops does {E} sell its goods?
  ? What is the number of shops of {E}?
  ?E Which company has {A} shops?

goods
  {E} makes {A}.
  {E} makes and sells {A}.
  {E} is a maker of {A}.
  The factory of {E} turns out {A}.
  ? What does {E} make?
  ? What does {E} make and sell?
  ? What is {E} a maker of?
  ? What does the factory of {E} turn out?
  ?E Which company makes {A}?

goods
  {E} used to trade in {A}.
  {E} used to be a trader in {A}.
  In its early days {E} traded in {A}.
  The goods that {E} first traded in were {A}.
  ? What did {E} use to trade in?
  ? What did {E} trade in during its early days?
  ? In what goods was {E} once a trader?
  ? What were the first goods of {E}?
  ! {E} has never sold {A}.

money 1000-9000000
  {E} made a profit of {A}.
  {E} earned a profit of {A}.
  The profit of {E} was {A}.
  {A} was the profit made by {E}.
  ? What profit did {E} make?
  ? How much profit did {E} earn?
  ? How large was the profit of {E}?
  ? How much did {E} gain?
  ?E Which company made a profit of {A}?
  ?> Which company made more profit, {E} or {F}?
  ! {E} made a loss of {A}.

money 1000-9000000
  {E} was sold for {A}.
  {E} was sold for the sum of {A}.
  The price paid for {E} was {A}.
  {A} was paid for {E}.
  ? For how much was {E} sold?
  ? For what sum was {E} sold?
  ? What price was paid for {E}?
  ? How much did the new owners of {E} pay?
"""

THING = """
person = the owner of {E}
  {E} belongs to {A}.
  {E} has an owner named {A}.
  {A} owns {E}.
  {A} is the owner of {E}.
  {E} is the property of {A}.
  ? Who does {E} belong to?
  ? Who is the owner of {E}?
  ? Who owns {E}?
  ? Whose property is {E}?
  ?E What does {A} own?
  ! {A} tried to steal {E}.

person = the maker of {E}
  {E} was made by {A}.
  {E} had a maker named {A}.
  {A} made {E}.
  {E} came from the workshop of {A}.
  ? Who made {E}?
  ? By whom was {E} made?
  ? Who was the maker of {E}?
  ? From whose workshop did {E} come?
  ?E What did {A} make?

person
  {E} was repaired by {A}.
  {E} was taken to be repaired by {A}.
  {A} repaired {E}.
  {A} put {E} back in order.
  ? Who repaired {E}?
  ? By whom was {E} repaired?
  ? Who put {E} back in order?
  ? Who mended {E}?
  ! {A} was not able to mend {E}.

room
  {E} is kept in {A}.
  {E} is kept in a corner of {A}.
  {E} stands in {A}.
  In {A} one can see {E}.
  {A} is where {E} is kept.
  ? Where is {E} kept?
  ? In what place is {E} kept?
  ? Where does {E} stand?
  ? Where can one see {E}?
  ? In which part of the house is {E}?
  ?E What is kept in {A}?
  ! There was no room for {E} in {A}.

room
  {E} used to be in {A}.
  {E} used to stand in {A}.
  Before, {E} was in {A}.
  For many years {E} stood in {A}.
  ? Where did {E} use to be?
  ? Where did {E} use to stand?
  ? Where was {E} before?
  ? Where did {E} stand for many years?

town
  {E} was made in {A}.
  {E} was made in a workshop in {A}.
  {A} is where {E} was made.
  In {A}, {E} was made.
  ? Where was {E} made?
  ? In what town was {E} made?
  ? Which town has the workshop that made {E}?
  ? What town does {E} come from?

town
  {E} was bought in {A}.
  {E} was bought in a shop in {A}.
  A shop in {A} sold {E}.
  {A} is where {E} was bought.
  ? Where was {E} bought?
  ? In what town was {E} bought?
  ? In which town did {E} find its buyer?
  ? In what town was {E} on sale?

when 1700-2024
  {E} was made {in A}.
  {E} was made in the year {year}.
  {in A} {E} was made.
  {E} left the workshop {in A}.
  ? When was {E} made?
  ?year In what year was {E} made?
  ? When did {E} leave the workshop?
  ?day On what day was {E} made?
  ?E What was made {in A}?
  ?< Which was made first, {E} or {F}?

when 1700-2024
  {E} was bought {in A}.
  {E} was bought in the year {year}.
  {in A} {E} was bought.
  {E} found a buyer {in A}.
  ? When was {E} bought?
  ?year In what year was {E} bought?
  ? When did {E} find a buyer?
  ?day On what day was {E} bought?

money 2-900
  {E} costs {A}.
  {E} has a price of {A}.
  The price of {E} is {A}.
  For {A} one can buy {E}.
  {E} is on sale for {A}.
  ? How much does {E} cost?
  ? What is the price of {E}?
  ? For how much can one buy {E}?
  ? How much is {E}?
  ?E What costs {A}?
  ?> Which costs more, {E} or {F}?
  ?< Which is cheaper, {E} or {F}?

money 2-900
  {E} was repaired for {A}.
  {E} was repaired at a cost of {A}.
  Repairing {E} cost {A}.
  {A} was spent on repairing {E}.
  ? For how much was {E} repaired?
  ? How much did repairing {E} cost?
  ? What did it cost to repair {E}?
  ? How much was spent on repairing {E}?

measure 2-90 kilograms pounds
  {E} weighs {A}.
  {E} has a weight of {A}.
  The weight of {E} is {A}.
  On the scales {E} showed {A}.
  ? How much does {E} weigh?
  ? What is the weight of {E}?
  ? How heavy is {E}?
  ?number How many {U} does {E} weigh?
  ?> Which is heavier, {E} or {F}?

material
  {E} has a handle of {A}.
  {E} has a handle made of {A}.
  The handle of {E} is of {A}.
  For the handle of {E} they used {A}.
  ? What is the handle of {E} made of?
  ? What kind of handle does {E} have?
  ? What was used for the handle of {E}?
  ? Which material is {E}'s handle?
"""

EVENT = """
town
  {E} began in {A}.
  {E} started in {A}.
  {E} began in the streets of {A}.
  In {A}, {E} began.
  {E} had its beginning in {A}.
  ? Where did {E} begin?
  ? In what town did {E} begin?
  ? Where did {E} start?
  ? What town saw the beginning of {E}?
  ?E Which event began in {A}?

town
  {E} ended in {A}.
  {E} came to an end in {A}.
  In {A}, {E} ended.
  {A} was where {E} was over.
  {E} finished in {A}.
  ? Where did {E} end?
  ? Where did {E} come to an end?
  ? In what town did {E} end?
  ? Where did {E} finish?
  ? What town saw the end of {E}?

when 1800-2024
  {E} began {in A}.
  {E} began in the year {year}.
  {in A} {E} began.
  {E} started {in A}.
  {E} opened {in A}.
  ? When did {E} begin?
  ?year In what year did {E} begin?
  ? When did {E} start?
  ?day On what day did {E} begin?
  ? When did {E} open?
  ?E Which event began {in A}?
  ?< Which began first, {E} or {F}?

when 1800-2024
  {E} ended {in A}.
  {E} ended in the year {year}.
  {in A} {E} ended.
  {E} came to an end {in A}.
  {E} was over {in A}.
  ? When did {E} end?
  ?year In what year did {E} end?
  ? When did {E} come to an end?
  ?day On what day did {E} end?
  ? When was {E} over?

person = the winner of {E}
  {E} was won by {A}.
  {E} had a winner named {A}.
  {A} won {E}.
  The winner of {E} was {A}.
  {A} took first place at {E}.
  First prize at {E} went to {A}.
  ? Who won {E}?
  ? By whom was {E} won?
  ? Who was the winner of {E}?
  ? Who took first place at {E}?
  ? To whom did first prize at {E} go?
  ?E What did {A} win?
  ! {A} came second at {E}.

person = the leader of {E}
  {E} was led by {A}.
  {E} had a leader named {A}.
  {A} led {E}.
  The leader of {E} was {A}.
  {A} was in charge of {E}.
  ? Who led {E}?
  ? By whom was {E} led?
  ? Who was the leader of {E}?
  ? Who was in charge of {E}?
  ?E What did {A} lead?

person
  {E} was opened by {A}.
  {E} was opened with a speech by {A}.
  {A} opened {E}.
  {A} declared {E} open.
  ? Who opened {E}?
  ? By whom was {E} opened?
  ? Who declared {E} open?
  ? Which person opened {E}?
  ! {A} slept through {E}.

count 200-90000
  {E} drew a crowd of {A} people.
  {E} had a crowd of {A} people.
  {A} people came to {E}.
  There were {A} people at {E}.
  {E} was seen by {A} people.
  ? How many people were in the crowd at {E}?
  ? How large was the crowd at {E}?
  ? How many people came to {E}?
  ? How many people saw {E}?
  ?E Which event drew a crowd of {A} people?
  ?> Which drew more people, {E} or {F}?
  ! {A} people wanted to come to {E} and could not.

count 12-400
  {E} had a team of {A} helpers.
  {E} was run by a team of {A} helpers.
  {A} helpers worked at {E}.
  There were {A} helpers at {E}.
  ? How many helpers were on the team of {E}?
  ? How many helpers did {E} need?
  ? How many helpers worked at {E}?
  ? What was the number of helpers at {E}?

count 2-90
  {E} lasted {A} days.
  {E} went on for {A} days.
  {A} days passed before {E} was over.
  For {A} days {E} went on.
  ? How many days did {E} last?
  ? For how many days did {E} go on?
  ? How long did {E} last?
  ? How many days passed before {E} was over?
  ?E Which event lasted {A} days?
  ?> Which lasted longer, {E} or {F}?

money 200-900000
  {E} cost {A}.
  {E} cost a sum of {A}.
  {A} was spent on {E}.
  The bill for {E} came to {A}.
  ? How much did {E} cost?
  ? What sum did {E} cost?
  ? How much was spent on {E}?
  ? What did the bill for {E} come to?
  ?> Which cost more, {E} or {F}?

money 200-900000
  {E} had a first prize of {A}.
  {E} offered a prize of {A}.
  The prize at {E} was {A}.
  {A} could be won at {E}.
  ? What prize did {E} offer?
  ? How much was the prize at {E}?
  ? How much could be won at {E}?
  ? How large was the first prize of {E}?

food
  {E} served its guests {A}.
  {E} offered its guests {A}.
  The guests of {E} ate {A}.
  There was {A} for everyone at {E}.
  ? What did {E} serve its guests?
  ? What did the guests of {E} eat?
  ? What was there to eat at {E}?
  ? What food was handed out at {E}?

weekday
  {E} is held {in A}.
  {E} is always held {in A}.
  {in A} {E} is held.
  {E} takes place {in A}.
  ? When is {E} held?
  ? On what day is {E} held?
  ? When does {E} take place?
  ? On which day of the week is {E}?
  ?E Which event is held {in A}?
"""

NATURE = """
country
  {E} is in {A}.
  {E} is to be found in {A}.
  {E} lies in {A}.
  {A} is the country of {E}.
  In {A} one can visit {E}.
  ? What country is {E} in?
  ? In what country is {E} to be found?
  ? What country does {E} lie in?
  ? Which country must one visit to see {E}?
  ?E What lies in {A}?

country
  {E} appears on a stamp of {A}.
  {E} is shown on a stamp of {A}.
  A stamp of {A} shows {E}.
  {A} put {E} on a stamp.
  ? On what country's stamp does {E} appear?
  ? What country's stamp shows {E}?
  ? What country put {E} on a stamp?
  ? Which country printed stamps that show {E}?

town
  {E} is near {A}.
  {E} is very near {A}.
  {A} is the town nearest to {E}.
  Not far from {E} is the town of {A}.
  ? What town is {E} near?
  ? Near what town is {E}?
  ? What is the town nearest to {E}?
  ? Which town is not far from {E}?
  ?E What is near {A}?

town
  {E} was painted by artists from {A}.
  {E} was painted by a group from {A}.
  Artists from {A} painted {E}.
  The best paintings of {E} come from {A}.
  ? From what town were the artists who painted {E}?
  ? Where do the best paintings of {E} come from?
  ? Artists from what town painted {E}?
  ? What was the home town of the painters of {E}?

person = the discoverer of {E}
  {E} was discovered by {A}.
  {E} was first discovered by {A}.
  {A} discovered {E}.
  {A} was the first to set eyes on {E}.
  ? Who discovered {E}?
  ? By whom was {E} discovered?
  ? Who was the discoverer of {E}?
  ? Who was the first to set eyes on {E}?
  ?E What did {A} discover?
  ! {A} never managed to find {E}.

person
  {E} was painted by {A}.
  {E} was often painted by {A}.
  {A} painted {E}.
  {A} made a picture of {E}.
  ? Who painted {E}?
  ? By whom was {E} painted?
  ? Who made a picture of {E}?
  ? What painter chose {E} as a subject?

person = the first person to map {E}
  {E} was mapped by {A}.
  {E} was measured and mapped by {A}.
  {A} mapped {E}.
  {A} drew the first map of {E}.
  ? Who mapped {E}?
  ? By whom was {E} mapped?
  ? Who drew the first map of {E}?
  ? Whose map was the first to show {E}?

when 1500-1950
  {E} was discovered {in A}.
  {E} was discovered in the year {year}.
  {in A} {E} was discovered.
  Explorers first saw {E} {in A}.
  ? When was {E} discovered?
  ?year In what year was {E} discovered?
  ? When did explorers first see {E}?
  ?day On what day was {E} discovered?
  ?< Which was discovered first, {E} or {F}?

when 1500-1950
  {E} was mapped {in A}.
  {E} was mapped in the year {year}.
  {in A} {E} was mapped.
  The first map of {E} was drawn {in A}.
  ? When was {E} mapped?
  ?year In what year was {E} mapped?
  ? When was the first map of {E} drawn?
  ? When did {E} first appear on a map?

plant
  {E} is known for its {A}.
  {E} is known all over for its {A}.
  {E} is covered with {A}.
  Visitors to {E} come to see the {A}.
  ? What is {E} known for?
  ? What plants is {E} known for?
  ? With what is {E} covered?
  ? What do visitors to {E} come to see?
  ?E What is known for its {A}?

animal
  {E} got its name from {A}.
  {E} was named after {A}.
  {A} gave {E} its name.
  {E} is called after {A}.
  ? What animal did {E} get its name from?
  ? After what animal was {E} named?
  ? What animal gave {E} its name?
  ? Which animal is {E} called after?

count 200-90000
  {E} draws a crowd of {A} hikers.
  {E} draws a yearly crowd of {A} hikers.
  {A} hikers visit {E} each year.
  Each year {E} is visited by {A} hikers.
  ? How many hikers does {E} draw?
  ? How many hikers visit {E} each year?
  ? How large is the crowd of hikers at {E}?
  ? By how many hikers is {E} visited?
  ?> Which draws more hikers, {E} or {F}?

count 2-900
  {E} is home to a herd of {A} deer.
  {E} is home to {A} deer.
  {A} deer live near {E}.
  There are {A} deer near {E}.
  ? How many deer is {E} home to?
  ? How many deer live near {E}?
  ? How large is the herd at {E}?
  ? How many deer can be counted near {E}?
  ! Hunters shot {A} deer near {E}.
"""
